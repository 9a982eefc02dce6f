"""What ``lightning-seq doctor`` finds out: a file a subject, each of which has something to report."""
