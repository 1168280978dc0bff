from . import cold_start as cold_start
from . import plots as plots
from . import tables as tables
from .laboratory import Laboratory as Laboratory
from .optimisation_switches import switch_off as switch_off
from .optimisation_switches import switches as switches
