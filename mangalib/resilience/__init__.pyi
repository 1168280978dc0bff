from .cancellation import end_if_cancelled as end_if_cancelled
from .circuit_breaker import CircuitBreaker as CircuitBreaker
from .retry_budget import RetryBudget as RetryBudget
