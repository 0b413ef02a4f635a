"""What `steadytune doctor` looks at: the machine, the packages, Ray, the run folder and the hub."""
