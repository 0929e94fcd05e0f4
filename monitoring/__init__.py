"""What a running Everloop tells about itself: Prometheus metrics, drift reports, the drift worker.

Serving reaches this package only through its observer Protocols; `monitoring.metrics` stays light.
"""
