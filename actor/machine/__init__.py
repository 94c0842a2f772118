"""What the machine is and gives: labels, a name, memory that outlives a process."""
