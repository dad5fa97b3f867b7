"""`python -m libvirt_guestnet.cli`"""

import sys

from libvirt_guestnet.cli.main import main

sys.exit(main())
