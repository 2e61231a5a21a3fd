"""What the files in the run folder of `experiments.distill` are called."""

POLICY, TEACHER_ONNX, TREE_ONNX, RULE = "policy", "teacher.onnx", "tree.onnx", "rule.txt"
