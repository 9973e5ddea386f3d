"""Everything that talks to a server: the command line, chat, sweeps, and `steersman serve`."""
