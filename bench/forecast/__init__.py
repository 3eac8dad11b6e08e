"""What a run would take: measured costs and simulated schedules."""
