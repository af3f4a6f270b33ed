#!/usr/bin/env bash
# The real path once: ACDC with 3 labelled patients, from the scans to masks on test patients, as a user types it.
#
#   MEDKD_DATA=FOLDER bash benchmarks/acdc_first_run.sh WORK > docs/results/acdc_first_run.log
#
# FOLDER/acdc is the flat folder data_prep/acdc.py describes. Datasets, runs and masks go to WORK. 500 updates, a third of
# the recipes' length: this shows the path, docs/results/bcp_acdc.md measures it.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
cd "$1"
ln -sfn "$repository/configs" configs
ln -sfn "$repository/data_prep" data_prep
ln -sfn "$MEDKD_DATA/acdc" ACDC
step() {
    printf '\n$ %s\n' "$*"
    local began=$SECONDS
    "$@" 2>/dev/null
    printf '[%s s]\n' "$((SECONDS - began))"
}
medkd() { python -m medkd "$@"; }

step python data_prep/acdc.py ACDC --out acdc_3 --labelled 3
declare -A steps=(
    [labelled_only_acdc_3]="phases.training.steps=500"
    [bcp_acdc_3]="phases.pretrain.steps=150 phases.selftrain.steps=350"
)
for recipe in labelled_only_acdc_3 bcp_acdc_3; do
    # shellcheck disable=SC2086  # several overrides
    step medkd train configs/segmentation/$recipe.yaml data=acdc_3 ${steps[$recipe]} --out runs/$recipe
    step medkd evaluate runs/$recipe --data acdc_3
    step medkd evaluate runs/$recipe --data acdc_3 --weights last
done
step medkd predict runs/bcp_acdc_3 -i ACDC/images/patient011_frame01.nii.gz -o masks
python - <<'PY'
import json
manifest = json.load(open("runs/bcp_acdc_3/manifest.json"))
print("\nhardware:", manifest["hardware"], "\npackages:", manifest["packages"], "\nsplit:", manifest["split"])
PY
