"""The command line, and the contracts that training, serving, monitoring and feedback share."""
