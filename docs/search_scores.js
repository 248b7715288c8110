/* Guides whose titles have the word come before the methods that have it as their name. */
var Scorer = {
  objNameMatch: 4,
  objPartialMatch: 2,
  objPrio: {0: 5, 1: 2, 2: -5},
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
