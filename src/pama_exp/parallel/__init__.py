"""One run in several processes: started together, and what they tell each other."""
