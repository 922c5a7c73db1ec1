"""The record in MLflow. Nothing else in petseg imports mlflow, and importing this imports no mlflow.

A result is first written to the store of runs, and MLflow is updated afterwards from there. So nothing is
logged twice, the server may be away, and everything can be logged again. Its modules, from the ground up:

outbox        what is still to be logged: an entry for each run, whoever writes it or was killed while writing
client        the connection, and what is forgiven
entries       what is logged of a training, an evaluation, a set of figures, a stage before training
rows          an entry brought to MLflow, epoch by epoch while it grows; nothing twice
sync          everything that the store knows of a run; what ``petseg runs sync`` does
logged_model  the trained network as a model that MLflow loads and serves (pyfunc), as it is served (serving)
registry      its versions, and the champion's alias
view, ui      how its pages show the trainings, and ``make ui``
queries       what is asked of it: runs that fit a filter, copies of weights

One row of the experiment ``petseg`` is one trained model. infer and plot have child runs of their own,
because the params of a run can't change, and their scores and figures are shown by the row too. download
and preprocess make no model; their runs are in the experiment ``petseg-data``.
"""
