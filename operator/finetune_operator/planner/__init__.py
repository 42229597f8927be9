"""The planner: spec, inspection and inventory in, plan or PlanError out. Pure: no I/O, no clock, no torch."""
