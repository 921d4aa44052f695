#!/bin/sh
# The whole path on the bundled text: prepare, train, sample. Writes into a folder `demo`, anew each time.
set -eu
rm -rf demo
mkdir demo
say() { printf '\n$ %s\n' "$*"; "$@"; }
say ./prepare data/sample/zhwiki-abstract-sample.xml -o demo/zhwiki.bin --kind char --val 0.05
say ./train_gpt -d demo/zhwiki.bin -o demo/ckpt.bin --preset tiny --steps 300 --lr 2e-3 --warmup 40 \
  --eval-every 100 --sample-every 150 --save-every 0
say ./sample -c demo/ckpt.bin -p 数学 -n 60 --seed 7
say ./sample -c demo/ckpt.bin -p 位于 -n 60 --seed 7
