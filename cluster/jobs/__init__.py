"""A study as a job on a cluster: the job server, and the parcel that travels."""
