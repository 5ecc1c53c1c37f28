"""What a memproxy in this process has counted."""

from memproxy.telemetry.metrics import Metrics
from tests.fakes.serving import Served


def counted(of: Served | Metrics, name: str, **labels: str) -> float:
    """The value of one series; 0 before anything was counted."""
    metrics = of if isinstance(of, Metrics) else of.instance.services.metrics
    return metrics.registry.get_sample_value(name, labels) or 0.0
