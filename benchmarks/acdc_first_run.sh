#!/usr/bin/env bash
# The real path once: ACDC with 3 labelled patients, from the scans to masks on test patients, as a user types it.
#
#   MEDKD_DATA=FOLDER bash benchmarks/acdc_first_run.sh WORK > docs/results/acdc_first_run.log
#
# FOLDER/acdc is the flat folder data_prep/acdc.py describes. Datasets, runs and masks go to WORK.
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
for recipe in labelled_only_acdc_3 bcp_acdc_3; do
    step medkd train configs/segmentation/$recipe.yaml data=acdc_3 --out runs/$recipe
    step medkd evaluate runs/$recipe --data acdc_3
    step medkd evaluate runs/$recipe --data acdc_3 --weights last
done
step medkd predict runs/bcp_acdc_3 -i ACDC/images/patient011_frame01.nii.gz -o masks
python - <<'PY'
import json
manifest = json.load(open("runs/bcp_acdc_3/manifest.json"))
print("\nhardware:", manifest["hardware"], "\npackages:", manifest["packages"], "\nsplit:", manifest["split"])
PY
