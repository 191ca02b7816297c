"""What `fsdp` moves between processes; `mae_skill.estimate` counts it."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from mae_runners.training.fabric import shard

class Model(nn.Module):
    block_classes = (nn.Linear,)
    def __init__(self):
        super().__init__()
        self.block, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
model = shard(Model(), mesh)
for part, weight in ((model, model.norm.weight), (model.block, model.block.weight)):
    policy = part._get_fsdp_state()._mp_policy
    print(policy.param_dtype, policy.reduce_dtype, weight.dtype)
dist.destroy_process_group()
"""


def test_fsdp_gathers_weights_and_scatters_gradients_in_fp32() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["None None torch.float32"] * 2, done.stderr[-2000:]
