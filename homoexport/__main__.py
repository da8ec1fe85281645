"""`python -m homoexport`, which `accelerate launch -m homoexport` needs."""

from homoexport.cli import command

if __name__ == "__main__":
    command()
