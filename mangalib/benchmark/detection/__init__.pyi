from .series import METRICS as METRICS
from .series import Floats as Floats
from .severity import ALERT as ALERT
from .severity import CRITICAL as CRITICAL
from .severity import NAMES as NAMES
from .severity import WARNING as WARNING
