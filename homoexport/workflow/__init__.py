"""What joins the stages: one file for each verb, and what a run is made of."""
