"""`python -m homoexport`, which `accelerate launch -m homoexport` needs."""

from homoexport.cli import main

if __name__ == "__main__":
    main()
