"""Before the first job: what a study needs on this machine, and the time and memory it takes."""
