"""What the programs share: exit codes and messages of errors, files, and the call to a daemon's control socket."""
