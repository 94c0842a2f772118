"""A model that stays loaded, an actor chosen by its labels, a slot given back in mid-task."""

from sdk import Comparator, Desired, Environment, LocalCluster, current_task


class Model(Environment):
    def enter(self):  # Once in an actor; every later task finds it loaded.
        self.words = {"hello": "bonjour", "world": "monde"}


def translate(text):
    task = current_task()
    answer = " ".join(task.environment.words[word] for word in text.split())
    task.release_slot()  # The next task may start; this one goes on.
    return f"{answer}, with {task.actor.labels['memory']} MB"


with LocalCluster(labels={"memory": 512}) as cluster, cluster.client() as client:
    large = {"memory": Desired(256, Comparator.GREATER_THAN)}
    future = client.submit(translate, "hello world", environment=Model, desired_labels=large)
    print(future.result())
