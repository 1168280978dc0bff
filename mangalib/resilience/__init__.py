"""How to bear what fails: circuit breakers, retry budgets, back-off, periodic refresh."""
