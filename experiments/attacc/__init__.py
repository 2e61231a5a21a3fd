"""AttAcc's simulator as equations, to compare with its published output.

AttAcc (Park et al., ASPLOS 2024; github.com/scale-snu/attacc_simulator) times a decoder layer kernel by
kernel on one GPU of a tensor-parallel group, and attention on PIM stacks by the cycles of a DRAM simulator.
`gpu` and `simulate` hold its equations in our words, with its assumptions where papi_env makes others:
LLaMA's feed-forward of 8/3 hidden sizes, I/O energies per bit taken per byte, whole waves of thread
blocks, no static power, no limit of capacity.
"""
