"""Coverage-guided fuzzing of the code that reads untrusted bytes. See README.md."""
