from django.db import migrations

from providers.default_rules import DEFAULT_RULES
from providers.rows import rule_values


def add_default_rules(apps, schema_editor):
    """Whether or not their providers are there: routing passes over targets that are not."""
    rules = apps.get_model("providers", "RouteRule")
    columns = {field.name for field in rules._meta.get_fields()}  # later ones are not there yet
    for place, rule in enumerate(DEFAULT_RULES):
        values = {name: value for name, value in rule_values(rule).items() if name in columns}
        rules.objects.get_or_create(name=rule.name, defaults={**values, "position": 10 * (place + 1)})


class Migration(migrations.Migration):
    dependencies = [("providers", "0001_providers_and_rules")]

    operations = [migrations.RunPython(add_default_rules, migrations.RunPython.noop)]
