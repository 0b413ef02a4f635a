"""What files of any kind share: checksums, and YAML within bounds."""
