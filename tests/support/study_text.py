"""The text of a study that resolves without its files."""

from __future__ import annotations

BASE = """
model: {path: ./model}
task:
  rows: {train: data/train.jsonl, dev: {path: data/dev.jsonl, limit: 20}, test: data/test.jsonl}
  fields: [text]
  label: label
  labels: {0: no, 1: yes}
templates:
  plain: {words: {no: " no", yes: " yes"}}
  chat: {chat: true, system: You label posts.}
pools:
  train: {many: prompts/train.yaml, one: {file: prompts/train.yaml, only: [p1]}}
  dev: prompts/dev.yaml
  test: prompts/test.yaml
axes:
  lora: {r: [4, 16], target_modules: [q_proj, v_proj]}
  lr: [1e-3, 3.0e-3]
  steps: 200
"""
