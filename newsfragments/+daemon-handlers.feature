The daemon has the settings ``decode``, ``batch``, ``batch_wait``, ``middleware``, ``rate``
and ``deduplicate``, and its admin site pauses and resumes consumers.
