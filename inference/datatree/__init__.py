"""Posteriors of Pyro models as trees for ArviZ: by MCMC, by SVI, and by any other algorithm that gives draws."""

from latentmix.inference.datatree import containment
from latentmix.inference.datatree.draws import Draws
from latentmix.inference.datatree.mcmc import from_pyro
from latentmix.inference.datatree.needs import obstacle
from latentmix.inference.datatree.recording import RecordingHMC, RecordingNUTS
from latentmix.inference.datatree.renaming import renamed
from latentmix.inference.datatree.svi import from_pyro_svi
from latentmix.models.process_state import exclusive

__all__ = ["Draws", "RecordingHMC", "RecordingNUTS", "from_pyro", "from_pyro_svi", "obstacle", "renamed"]

containment.exclusive = exclusive  # one lock for all of LatentMix; the modules themselves import nothing of it
