import sys

from kernels.grader.shell import main

if __name__ == "__main__":
    sys.exit(main())
