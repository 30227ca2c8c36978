"""Start: the only argument is the number of the inherited socket."""

import sys

from tidegate.worker.child.serving import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
