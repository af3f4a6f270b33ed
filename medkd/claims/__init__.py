"""The honest experiments behind `medkd reproduce`: name of a claim -> the claim, as its authors would put it."""

CLAIMS = {
    "bcp": "with very few labelled patients, pasting labelled and unlabelled images into each other both ways beats "
    "self-training without copy-paste, which beats labelled-only training (Bai et al., CVPR 2023)",
}
