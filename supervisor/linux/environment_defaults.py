"""Environment variables of a pool's processes, unless the supervisor's environment or the pool sets them.

Runs in: supervisor. Behind `ports`. Values only, in a file of their own: the first guard waits for this import.
"""

ENVIRONMENT_DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""They keep libraries single-threaded, since a zygote with threads cannot fork. onnxruntime would start a thread on
import for its telemetry.
"""
