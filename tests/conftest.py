"""What every test may rely on."""

import signal

# A shell that runs the tests in the background has them ignore interrupts, and with them every
# process they start: tests that interrupt a sweep would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
