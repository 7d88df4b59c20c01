"""One file a stage: from verified inputs to the files of one artifact."""
