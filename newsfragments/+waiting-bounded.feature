Messages that wait to be published are bounded: at most 64 MiB while the broker blocks (`ConnectionBlocked`), and 256 MiB otherwise (`PublisherFull`).
