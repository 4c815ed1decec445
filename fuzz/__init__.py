"""Coverage-guided fuzzing of what reads untrusted bytes; README.md says how and with what aims."""
