"""What `bench_serving.py` is made of: a project for both servers, its data, load."""
