from . import demand as demand
from . import plans as plans
from .batch import catalogue_changed as catalogue_changed
from .batch import order_warming as order_warming
from .simulated_week import simulate_week as simulate_week
