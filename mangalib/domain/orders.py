"""Order numbers, as customers write them."""

from __future__ import annotations

import re

# "MA-10001", "ma10001" or "10001"; five digits at least, since smaller numbers are volumes, years and prices.
ORDER_NUMBER = re.compile(r"\b(?:MA-?)?\d{5,}\b", re.IGNORECASE)
