# make demo    the whole job on the embedded data set: draw, preprocess, train, test, movie
# make test    the tests, on all cores; ARGS="-m 'not slow'" leaves out kills, whole trainings and real clips,
#              ARGS="-k splits" takes some of them, ARGS="-n0 -x --pdb" one after another
# make clean   delete what the demo and the tests left; make distclean the environment too
#
# Both make .venv first, once: the demo with what the scripts need (requirements.txt), the tests with their own
# packages too (requirements-dev.txt). Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
ARGS ?=

.PHONY: demo test clean distclean

demo: .venv/ready-for-demo
	@.venv/bin/python demo.py

test: .venv/ready-for-tests
	.venv/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

.venv/ready-for-demo: requirements.txt setup.sh
	@bash setup.sh demo $(PYTHON)

.venv/ready-for-tests: requirements.txt requirements-dev.txt setup.sh
	@bash setup.sh tests $(PYTHON)

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf .venv
