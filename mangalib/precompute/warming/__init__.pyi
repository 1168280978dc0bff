from . import demand as demand
from . import plans as plans
from .batch import catalogue_changed as catalogue_changed
from .batch import request_warming as request_warming
from .measurement import WarmingMeasurement as WarmingMeasurement
from .plans import Program as Program
from .simulated_week import simulate_week as simulate_week
