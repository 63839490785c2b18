"""What benchmarks/peers.py starts: environments, the workloads, and one worker for each package."""
