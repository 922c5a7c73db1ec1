"""The record in MLflow. Nothing else in petseg imports mlflow, and importing this imports no mlflow.

A result is first written to the store of runs, and MLflow is updated afterwards from there. So nothing is
logged twice, the server may be away, and everything can be logged again. Its modules, from the ground up:

outbox        what is still to be logged: an entry for each run, also of a process that was killed
relocate      mends MLflow's database after the project was moved
client        the connection, and what happens if MLflow fails
entries       what is logged of a training, an evaluation, a set of figures, a stage before training
rows          logs an entry, epoch by epoch while a training runs, and nothing twice
sync          logs everything that the store has of a run, for ``petseg runs sync``
logged_model  the trained network as an MLflow model; pyfunc loads it, and serving serves it
registry      the versions of the model, and the champion's alias
view, ui      how MLflow's pages show the trainings, and ``make ui``
queries       reads from MLflow: runs that match a filter, copies of weights

One row of the experiment ``petseg`` is one trained model. infer and plot have child runs of their own,
because the params of a run can't change. The row has their scores and figures too. download and preprocess
make no model; their runs are in the experiment ``petseg-data``.
"""
