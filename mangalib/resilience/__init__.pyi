from .backoff import NO_JITTER as NO_JITTER
from .backoff import backoff_pauses as backoff_pauses
from .cancellation import end_if_cancelled as end_if_cancelled
from .circuit_breaker import CircuitBreaker as CircuitBreaker
from .periodic import refresh_periodically as refresh_periodically
from .periodic import try_refresh as try_refresh
from .retry_budget import RetryBudget as RetryBudget
