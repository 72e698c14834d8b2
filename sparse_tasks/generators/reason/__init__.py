"""Reasoning tasks: long answers, of steps that are checked one by one."""
