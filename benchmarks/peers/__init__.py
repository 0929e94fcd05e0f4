"""The engines that benchmarks compare with; `make bench-peers` installs those that are not ours."""
