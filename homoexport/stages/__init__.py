"""The stages of the journey, none of which knows of another: what each computes, given loaded objects."""
